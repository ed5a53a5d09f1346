// Does the artifact compute in WebAssembly what was checked? `node check.mjs`, in the folder that prepare.py made.
// Exit status: 0 passed, 1 a gate failed, 2 could not run.

import { readFile } from "node:fs/promises";
import { cosine, open, rows } from "./embedding.mjs";

const read = (name) => readFile(new URL(name, import.meta.url));
const array = async (name, kind) => {
  const { buffer, byteOffset, byteLength } = await read(name);
  return new kind(buffer.slice(byteOffset, byteOffset + byteLength));
};

try {
  const facts = JSON.parse(await read("facts.json"));
  const tiles = rows(await array("tiles.bin", Uint8Array), facts.size * facts.size * 3);
  const golden = async (name) => rows(await array(name, Float32Array), facts.dim);
  const [program, reference] = [await golden("program.bin"), await golden("reference.bin")];
  const embed = await open(await read("model.onnx"), facts);
  const found = [];
  for (const tile of tiles) found.push(await embed(tile));
  const mean = (others) => found.reduce((sum, one, i) => sum + cosine(one, others[i]), 0) / found.length;
  const [lowering, total] = [mean(program), mean(reference)];
  const passed = total >= facts.required;
  console.log(`${facts.name} in WebAssembly, ${found.length} golden tiles`);
  console.log(`1 - mean cosine to the program ${(1 - lowering).toExponential(2)}, noise floor ${(1 - facts.noise_floor).toExponential(2)}`);
  console.log(`mean cosine to full precision ${total.toFixed(6)}, required ${facts.required}: ${passed ? "passed" : "FAILED"}`);
  process.exitCode = passed ? 0 : 1;
} catch (error) {
  const missing = error.code === "ERR_MODULE_NOT_FOUND" ? "onnxruntime-web is not here; run `npm install` first" : error.message;
  console.error(`check.mjs: ${missing}`);
  process.exitCode = 2;
}
