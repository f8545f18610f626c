// A server without dependencies. It listens where PORT says, on every address, and ends in order on SIGINT and SIGTERM.
import http from "node:http";

const server = http.createServer((request, response) => {
  response.setHeader("content-type", "text/plain");
  response.end(`Hello from Node.js ${process.version}: ${request.method} ${request.url}\n`);
});
server.listen(process.env.PORT ?? 3000);
for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => server.close());
