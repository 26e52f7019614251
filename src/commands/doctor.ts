/** `usdt-nop5 doctor`: what this machine does with USDT probes. */
import { examine } from "../live/doctor.js";
import { doctorDocument, doctorText } from "../report/doctor.js";
import { document, makeStyle } from "../report/text.js";
import { print, type Streams, wantsColours } from "./streams.js";

/**
 * Examines the machine and reports.
 * @returns the exit status: 0 whatever was found, since finding it was what was asked
 */
export async function doctor(options: { readonly json?: boolean }, streams: Streams): Promise<number> {
  const diagnosis = await examine();
  await print(
    streams,
    options.json ? document(doctorDocument(diagnosis)) : doctorText(diagnosis, makeStyle(wantsColours(streams.stdout))),
  );
  return 0;
}
