/**
 * Puts what the page needs of onnxruntime-web into site/vendor/, from the package that npm installed: the loader, and
 * the WebAssembly program gzipped (14 MB as published; the page unpacks it itself, so any host will do).
 *
 * `node vendor.mjs` writes it; `node vendor.mjs --check` says whether what is there is what npm installed.
 */

import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { gunzipSync, gzipSync } from "node:zlib";

const PACKAGE = new URL("node_modules/onnxruntime-web/", import.meta.url);
const TARGET = new URL("site/vendor/", import.meta.url);
const sha256 = (/** @type {Uint8Array} */ bytes) => createHash("sha256").update(bytes).digest("hex");

const { version, license } = JSON.parse(readFileSync(new URL("package.json", PACKAGE), "utf8"));
const loader = readFileSync(new URL("dist/ort.wasm.bundle.min.mjs", PACKAGE), "utf8").replace(
  /\n\/\/# sourceMappingURL=.*/,
  "",
);
const program = readFileSync(new URL("dist/ort-wasm-simd-threaded.wasm", PACKAGE));
const told = {
  package: "onnxruntime-web",
  version,
  license,
  files: { "ort.wasm.bundle.min.mjs": sha256(Buffer.from(loader)), "ort-wasm-simd-threaded.wasm": sha256(program) },
};

if (process.argv.includes("--check")) {
  const read = (/** @type {string} */ name) => readFileSync(new URL(name, TARGET));
  const there = existsSync(new URL("vendored.json", TARGET)) ? JSON.parse(read("vendored.json").toString()) : null;
  const same =
    JSON.stringify(there) === JSON.stringify(told) &&
    sha256(read("ort.wasm.bundle.min.mjs")) === told.files["ort.wasm.bundle.min.mjs"] &&
    sha256(gunzipSync(read("ort-wasm-simd-threaded.wasm.gz"))) === told.files["ort-wasm-simd-threaded.wasm"];
  console.log(
    same ? `site/vendor is onnxruntime-web ${version}` : "site/vendor differs from the package; run 'npm run vendor'",
  );
  process.exit(same ? 0 : 1);
}

mkdirSync(TARGET, { recursive: true });
writeFileSync(new URL("ort.wasm.bundle.min.mjs", TARGET), loader);
writeFileSync(new URL("ort-wasm-simd-threaded.wasm.gz", TARGET), gzipSync(program, { level: 9 }));
writeFileSync(new URL("vendored.json", TARGET), JSON.stringify(told, null, 2) + "\n");
console.log(`onnxruntime-web ${version}: loader ${loader.length} bytes, program ${program.length} bytes before gzip`);
