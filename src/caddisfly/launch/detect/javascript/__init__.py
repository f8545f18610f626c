"""JavaScript and TypeScript: package.json and its packager, the families of frameworks, and Deno."""
