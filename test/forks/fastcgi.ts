/**
 * As much of a FastCGI client as it takes to ask php-fpm for a page: one request a connection, an empty standard input. The
 * protocol is that of the FastCGI Specification 1.0 (sections 3.3, 3.4, 5.1 to 5.5).
 */
import { connect } from "node:net";

/** Record types and the role. */
const FCGI_BEGIN_REQUEST = 1;
const FCGI_END_REQUEST = 3;
const FCGI_PARAMS = 4;
const FCGI_STDIN = 5;
const FCGI_STDOUT = 6;
const FCGI_RESPONDER = 1;

const HEADER = 8;
/** 1 is the request's id, the same in all records of a connection. */
const record = (type: number, content: Buffer): Buffer =>
  Buffer.concat([Buffer.of(1, type, 0, 1, content.length >> 8, content.length & 255, 0, 0), content]);

/** A length of up to 127 is one byte, a longer one four with the top bit set. */
function length(n: number): Buffer {
  if (n < 0x80) return Buffer.of(n);
  const four = Buffer.alloc(4);
  four.writeUInt32BE(n + 0x8000_0000);
  return four;
}

const parameter = ([name, value]: readonly [string, string]): Buffer =>
  Buffer.concat([length(name.length), length(value.length), Buffer.from(name + value, "latin1")]);

/**
 * The body of the page, or undefined if the connection ended before the answer was whole, which is what a worker that dies
 * leaves behind. Never rejects.
 */
export function fastcgi(socket: string, script: string, query: string): Promise<string | undefined> {
  const parameters = Object.entries({
    SCRIPT_FILENAME: script,
    SCRIPT_NAME: "/page.php",
    REQUEST_METHOD: "GET",
    QUERY_STRING: query,
    SERVER_PROTOCOL: "HTTP/1.1",
  });
  return new Promise((resolve) => {
    const chunks: Buffer[] = [];
    const client = connect(socket, () =>
      client.write(
        Buffer.concat([
          record(FCGI_BEGIN_REQUEST, Buffer.of(0, FCGI_RESPONDER, 0, 0, 0, 0, 0, 0)),
          record(FCGI_PARAMS, Buffer.concat(parameters.map(parameter))),
          record(FCGI_PARAMS, Buffer.alloc(0)),
          record(FCGI_STDIN, Buffer.alloc(0)),
        ]),
      ),
    );
    client.on("data", (chunk: Buffer) => chunks.push(chunk));
    client.on("error", () => {});
    client.on("close", () => resolve(body(Buffer.concat(chunks))));
  });
}

function body(answer: Buffer): string | undefined {
  const output: Buffer[] = [];
  for (let at = 0; at + HEADER <= answer.length; ) {
    const content = at + HEADER;
    const size = answer.readUInt16BE(at + 4);
    const type = answer[at + 1];
    if (type === FCGI_END_REQUEST) {
      const text = Buffer.concat(output).toString("latin1");
      return text.slice(text.indexOf("\r\n\r\n") + 4);
    }
    if (type === FCGI_STDOUT) output.push(answer.subarray(content, content + size));
    at = content + size + answer[at + 6]!;
  }
  return undefined;
}
