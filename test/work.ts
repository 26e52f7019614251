/**
 * How often each piece of the program's own code runs: work that does not depend on the machine, or on who else uses it.
 * V8 counts it, for each function and each block in it.
 */
import { Session } from "node:inspector/promises";
import { setFlagsFromString } from "node:v8";

export class WorkMeter {
  private constructor(private readonly session: Session) {}

  /**
   * One for all that is to be held against each other, made before any of it has run: of what is compiled when nobody
   * counts, or when somebody else has counted before, V8 knows no blocks.
   */
  static async start(): Promise<WorkMeter> {
    // What V8 has optimized it does not count.
    setFlagsFromString("--no-opt");
    const session = new Session();
    session.connect();
    await session.post("Profiler.enable");
    await session.post("Profiler.startPreciseCoverage", { callCount: true, detailed: true });
    return new WorkMeter(session);
  }

  stop(): void {
    this.session.disconnect();
    setFlagsFromString("--opt");
  }

  /** By function, the count of the block of it that ran most often. */
  async of(run: () => void): Promise<ReadonlyMap<string, number>> {
    await this.session.post("Profiler.takePreciseCoverage");
    run();
    const { result } = await this.session.post("Profiler.takePreciseCoverage");
    const work = new Map<string, number>();
    for (const { url, functions } of result) {
      const file = /\/src\/(.*\.ts)/.exec(url)?.[1];
      if (file === undefined) continue;
      for (const { functionName, ranges } of functions) {
        // What has no name is told from others by where it stands.
        const name = `${file} ${functionName || "anonymous"} @${ranges[0]!.startOffset}`;
        work.set(name, Math.max(...ranges.map((r) => r.count)));
      }
    }
    return work;
  }
}

/**
 * What grew by more than n log n does from one run to another with twice as much to do, leaving out what is too little to
 * tell: each in words.
 */
export function grown(
  once: ReadonlyMap<string, number>,
  twice: ReadonlyMap<string, number>,
  least: number,
): readonly string[] {
  return [...twice].flatMap(([name, count]) => {
    const before = once.get(name) ?? 0;
    return count > least && count > 2.5 * before ? [`${name}: ${before} times, then ${count}`] : [];
  });
}
