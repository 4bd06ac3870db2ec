// What the page asks the server. Every failure is an Error with one sentence.

const LINES = "application/x-ndjson";
let most = Infinity; // bytes of a request

/** Refuse larger requests here: the server would end the connection before it has read them. */
export function limitBodies(megabytes) {
  most = megabytes * 2 ** 20;
}

/** The answer to a question of the page; with a body it is a POST. */
export async function ask(path, query = {}, body = undefined) {
  const address = `${path}?${new URLSearchParams(query)}`;
  refuseTooLarge(body?.size || 0);
  return checked(fetch(address, body === undefined ? {} : { method: "POST", body }));
}

/** The same as JSON. */
export async function askJson(path, query, body) {
  return (await ask(path, query, body)).json();
}

/** POST an order as JSON; onStep(done, total) is called after every step; `signal` stops it. */
export async function order(path, content, signal, onStep) {
  const body = JSON.stringify(content);
  refuseTooLarge(body.length);
  const answer = await checked(fetch(path, {
    method: "POST",
    headers: { "Content-Type": "application/json", Accept: `${LINES}, application/json` },
    body,
    signal,
  }));
  if (!answer.headers.get("content-type").startsWith(LINES)) return answer.json();
  let last = null;
  for await (const line of linesOf(answer.body)) {
    last = JSON.parse(line);
    if (last.steps) onStep(last.step, last.steps);
  }
  if (last === null || last.steps) throw new Error("the connection ended before the edit; try again");
  if (last.error) throw new Error(last.error);
  return last;
}

/** A file as a data: URL. */
export function dataUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error(`${file.name || "the file"} cannot be read any more; choose it again`));
    reader.readAsDataURL(file);
  });
}

function refuseTooLarge(size) {
  if (size <= most) return;
  const [has, may] = [size, most].map((bytes) => Math.ceil(bytes / 2 ** 20));
  throw new Error(`this needs ${has} MB, and a request takes at most ${may} MB; scale the pictures down first`);
}

async function checked(fetched) {
  let answer;
  try {
    answer = await fetched;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("the server does not answer; is it still running?");
  }
  if (answer.ok) return answer;
  const content = await answer.json().catch(() => ({}));
  throw new Error(content.error || `the server answered with status ${answer.status}`);
}

async function* linesOf(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    yield* lines;
  }
  if (rest) yield rest;
}
