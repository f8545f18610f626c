ARG NODE_VERSION=22
FROM node:${NODE_VERSION}-slim AS base
WORKDIR /app

FROM base AS build
# What it needs, before the source: a changed line installs nothing.
COPY package.json package-lock.json ./
RUN npm ci --include=dev

COPY . .
RUN NODE_ENV=production npm run build

# Without what only the build needed.
RUN npm prune --omit=dev

FROM base
ENV NODE_ENV=production \
    PORT=3000
ENV PATH=/app/node_modules/.bin:$PATH
COPY --from=build /app /app
RUN mkdir -p .next/cache && chown -R node:node .next/cache

USER node
EXPOSE 3000
CMD ["next", "start"]
