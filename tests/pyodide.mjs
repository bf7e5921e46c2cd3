// Run pytest in-process on a Python that is no program: the one in the npm package "pyodide", compiled to
// WebAssembly. It needs Node 18 or later, and no network:
//
//     node tests/pyodide.mjs PYODIDE WHEELS [argument of pytest ...]
//
// PYODIDE is the directory of the npm package, WHEELS one that "pip install --target" has filled with pure
// wheels. The Python sees the checkout as /checkout. It has no sockets to listen on, no processes, no threads
// and no terminals: what needs one of them is marked needs_os, and left out by -m "not needs_os".

import { dirname, join, resolve } from "node:path";
import process from "node:process";
import { fileURLToPath, pathToFileURL } from "node:url";

const RUN_PYTEST = `
import os
import sys
import time

sys.path.append("/wheels")
import js
import pytest


def tzset():
    """Do what time.tzset() does elsewhere: here, local time is that of Node."""
    js.process.env.TZ = os.environ.get("TZ", node_zone)


node_zone = js.process.env.TZ
time.tzset = tzset
print("Python", sys.version.split()[0], "in pyodide", flush=True)
int(pytest.main(arguments.to_py()))
`;

async function run(pyodide, wheels, args) {
  const indexURL = resolve(pyodide);
  const { loadPyodide } = await import(pathToFileURL(join(indexURL, "pyodide.mjs")));
  const passed = Object.entries(process.env).filter(([name]) => /^(PYTEST_ADDOPTS|VESTEL_.*)$/.test(name));

  const python = await loadPyodide({
    indexURL,
    env: {
      HOME: "/home/pyodide",
      PYTHONDONTWRITEBYTECODE: "1",
      HYPOTHESIS_STORAGE_DIRECTORY: "/tmp/hypothesis", // nothing is written into the checkout
      ...Object.fromEntries(passed),
    },
  });
  python.mountNodeFS("/checkout", dirname(dirname(fileURLToPath(import.meta.url))));
  python.mountNodeFS("/wheels", resolve(wheels));
  python.FS.chdir("/checkout");

  python.globals.set("arguments", args);
  return python.runPython(RUN_PYTEST);
}

const [pyodide, wheels, ...args] = process.argv.slice(2);
if (wheels === undefined) {
  console.error("usage: node tests/pyodide.mjs PYODIDE WHEELS [argument of pytest ...]");
  process.exit(2);
}
process.env.TZ ??= "UTC"; // so that tzset() can bring it back
let code = 1;
try {
  code = await run(pyodide, wheels, args);
} catch (error) {
  console.error(error.message); // Node would show a line of 1 MB with the error itself
}
process.exit(code); // even if a test has left a timer or a socket behind
