// Bundle the libraries of the report and collect their licenses (`make report-assets`).
import { createHash } from "node:crypto";
import { readFileSync, readdirSync, writeFileSync } from "node:fs";
import { build } from "esbuild";

const ASSETS = new URL("../assets/", import.meta.url);
const digest = (name) => createHash("sha256").update(readFileSync(new URL(name, import.meta.url))).digest("hex");
const lock = JSON.parse(readFileSync(new URL("package-lock.json", import.meta.url)));

const result = await build({
  entryPoints: ["libraries.js"], absWorkingDir: new URL(".", import.meta.url).pathname,
  bundle: true, minify: true, format: "iife", globalName: "libraries", target: ["chrome100", "firefox115"],
  legalComments: "none", metafile: true, write: false,
});
const used = new Set(Object.entries(Object.values(result.metafile.outputs)[0].inputs)
  .filter(([, { bytesInOutput }]) => bytesInOutput)
  .map(([path]) => path.match(/^node_modules\/((?:@[^/]+\/)?[^/]+)/)?.[1]).filter(Boolean));
const packages = [...used].sort().map((name) => {
  const folder = new URL(`node_modules/${name}/`, import.meta.url), { version, license } = lock.packages[`node_modules/${name}`];
  const file = readdirSync(folder).find((entry) => /^licen[cs]e/i.test(entry));
  return { name, version, license, text: readFileSync(new URL(file, folder), "utf-8").trim() };
});
const header = [
  "/*! Libraries of the report, bundled by `make report-assets`. Their licenses are in libraries.licenses.txt.",
  ...packages.map(({ name, version, license }) => ` * ${name} ${version} (${license})`),
  ` * package-lock.json sha256 ${digest("package-lock.json")}`,
  ` * libraries.js sha256 ${digest("libraries.js")}`,
  " */",
];
// a closing tag inside a string would end the script element of the page
const code = result.outputFiles[0].text.replaceAll("</script", "<\\/script");
writeFileSync(new URL("libraries.min.js", ASSETS), header.join("\n") + "\n" + code);
const licenses = packages.map(({ name, version, text }) => `${name} ${version}\n${"-".repeat(name.length + version.length + 1)}\n${text}\n`);
writeFileSync(new URL("libraries.licenses.txt", ASSETS), licenses.join("\n\n"));
console.log(`libraries.min.js: ${packages.length} packages, ${(code.length / 1e6).toFixed(2)} MB`);
