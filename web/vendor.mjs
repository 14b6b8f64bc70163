/**
 * Puts what the page needs of onnxruntime-web into site/vendor/, from the package that npm installed: loaders, and the
 * WebAssembly programs gzipped (14 and 27 MB as published; the page unpacks them itself, so any host will do). What only
 * WebGPU needs has a folder of its own, as most sites do without.
 *
 * `node vendor.mjs` writes it; `node vendor.mjs --check` says whether what is there is what npm installed.
 */

import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { gunzipSync, gzipSync } from "node:zlib";

const PACKAGE = new URL("node_modules/onnxruntime-web/", import.meta.url);
const TARGET = new URL("site/vendor/", import.meta.url);
const FILES = [
  "ort.wasm.bundle.min.mjs",
  "ort-wasm-simd-threaded.wasm",
  "webgpu/ort.webgpu.bundle.min.mjs",
  "webgpu/ort-wasm-simd-threaded.asyncify.wasm",
];

const sha256 = (/** @type {Uint8Array} */ bytes) => createHash("sha256").update(bytes).digest("hex");
const isProgram = (/** @type {string} */ name) => name.endsWith(".wasm");
const stored = (/** @type {string} */ name) => new URL(isProgram(name) ? `${name}.gz` : name, TARGET);

/** A file as the package has it, but without the address of a source map that is not here. */
function published(/** @type {string} */ name) {
  const bytes = readFileSync(new URL(`dist/${name.replace("webgpu/", "")}`, PACKAGE));
  return isProgram(name) ? bytes : Buffer.from(bytes.toString().replace(/\n\/\/# sourceMappingURL=.*/, ""));
}

const { version, license } = JSON.parse(readFileSync(new URL("package.json", PACKAGE), "utf8"));
const files = Object.fromEntries(FILES.map((name) => [name, sha256(published(name))]));
const told = JSON.stringify({ package: "onnxruntime-web", version, license, files }, null, 2) + "\n";
const record = new URL("vendored.json", TARGET);

if (process.argv.includes("--check")) {
  const unpacked = (/** @type {string} */ name) =>
    isProgram(name) ? gunzipSync(readFileSync(stored(name))) : readFileSync(stored(name));
  const same =
    existsSync(record) &&
    readFileSync(record, "utf8") === told &&
    FILES.every((name) => existsSync(stored(name)) && sha256(unpacked(name)) === files[name]);
  console.log(
    same ? `site/vendor is onnxruntime-web ${version}` : "site/vendor differs from the package; run 'npm run vendor'",
  );
  process.exit(same ? 0 : 1);
}

mkdirSync(new URL("webgpu/", TARGET), { recursive: true });
for (const name of FILES) {
  const bytes = published(name);
  writeFileSync(stored(name), isProgram(name) ? gzipSync(bytes, { level: 9 }) : bytes);
  console.log(`${name}: ${bytes.length} bytes${isProgram(name) ? " before gzip" : ""}`);
}
writeFileSync(record, told);
