/**
 * Starts tools for run.ts. Node copies the page tables of the process that starts another one: from a test's process, with hundreds
 * of megabytes, that takes several times as long as from this one, which has next to nothing.
 */
import { spawn } from "node:child_process";

const children = new Set();
process.on("disconnect", () => {
  for (const child of children) child.kill("SIGKILL");
  process.exit();
});

process.on("message", ({ id, command, args, options }) => {
  const answer = (rest) => process.connected && process.send({ id, ...rest });
  const child = spawn(command, args, { ...options, stdio: ["ignore", "pipe", "pipe"], killSignal: "SIGKILL" });
  children.add(child);
  const [stdout, stderr] = [[], []];
  child.stdout?.on("data", (chunk) => stdout.push(chunk));
  child.stderr?.on("data", (chunk) => stderr.push(chunk));
  child.on("error", (error) => {
    children.delete(child);
    answer({ error: { message: error.message, code: error.code } });
  });
  child.on("close", (status, signal) => {
    children.delete(child);
    answer({ status, signal, stdout: Buffer.concat(stdout), stderr: Buffer.concat(stderr) });
  });
});
