/** `usdt-nop5 bench [FILE --site PROVIDER:NAME]`: what a probe costs here, before and after. */
import { cpus, release } from "node:os";
import { measure } from "../bench/measure.js";
import { type SampleFunction, sampleFunctions } from "../bench/sample.js";
import { type SiteForm, siteForms } from "../bench/site-form.js";
import { runningKernel } from "../live/running-kernel.js";
import { findTracefs } from "../live/tracefs.js";
import { benchDocument, benchText } from "../report/bench.js";
import { document, makeStyle } from "../report/text.js";
import { fastestOn } from "../rewrite/layout-choice.js";
import type { FileLayout } from "../usdt/forms.js";
import type { ProbePattern } from "../usdt/pattern.js";
import { complain, complainAbout, print, type Streams, wantsColours } from "./streams.js";

export interface BenchOptions {
  readonly json?: boolean;
  readonly site?: ProbePattern;
  readonly layout?: FileLayout;
  readonly rounds: number;
}

const HIT_PASSES = 20_000;
const IDLE_PASSES = 10_000_000;

/**
 * Measures and reports. Where nothing can be traced the cost of a hit is left out, and a line says why.
 * @returns the exit status
 */
export async function bench(file: string | undefined, options: BenchOptions, streams: Streams): Promise<number> {
  if ((file === undefined) !== (options.site === undefined)) {
    await complain(streams, "FILE and --site PROVIDER:NAME go together");
    return 2;
  }
  try {
    const kernel = runningKernel();
    const layout = options.layout ?? fastestOn(kernel);
    const sites: readonly SiteForm[] = file !== undefined && options.site ? siteForms(file, options.site, layout) : [];
    const wanted = new Set<SampleFunction | null>(sites.map((site) => site.measuredAs));
    const chosen = sampleFunctions.filter(
      (name) => name !== "nop5" && name !== "nop10" && (file === undefined || wanted.has(name)),
    );
    const tracefs = findTracefs();
    if (tracefs.path === null) await complain(streams, `bench: no hits are measured: ${tracefs.detail}`);
    const costs = await measure(tracefs.path, chosen, {
      kernel,
      layout,
      rounds: options.rounds,
      hitPasses: HIT_PASSES,
      idlePasses: IDLE_PASSES,
    });
    const processor = cpus()[0]?.model.trim() ?? "unknown processor";
    const run = { kernel: release(), processor, file: file ?? null, sites, costs };
    const text = options.json ? document(benchDocument(run)) : benchText(run, makeStyle(wantsColours(streams.stdout)));
    await print(streams, text);
    return 0;
  } catch (error) {
    await complainAbout(streams, file ?? "bench", error);
    return 1;
  }
}
