// Embeds tiles with ONNX Runtime Web, and finds those that are most alike. Used by index.html and by check.mjs.

const PACKAGE = "./node_modules/onnxruntime-web/dist/ort.wasm.min.mjs";

// Opens an artifact's bytes; of `facts`, `size` and `dim` are read.
export async function open(bytes, facts) {
  const runtime = await import(PACKAGE);
  // More threads need a page that is isolated from all others, which a plain file server does not make.
  runtime.env.wasm.numThreads = 1;
  const session = await runtime.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
  // One tile, a Uint8Array of size x size x 3, row by row: returns its embedding, a Float32Array of `dim`.
  return async (tile) => {
    const pixels = new runtime.Tensor("uint8", tile, [1, facts.size, facts.size, 3]);
    return (await session.run({ tiles: pixels })).embedding.data;
  };
}

export function cosine(one, other) {
  let product = 0, square = 0, otherSquare = 0;
  for (let i = 0; i < one.length; i++) {
    product += one[i] * other[i];
    square += one[i] ** 2;
    otherSquare += other[i] ** 2;
  }
  return product / Math.sqrt(square * otherSquare);
}

// Cuts an array that holds many rows of `length` into them.
export function rows(all, length) {
  return Array.from({ length: all.length / length }, (_, i) => all.subarray(i * length, (i + 1) * length));
}
