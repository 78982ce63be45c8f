// Talking to the device: JSON there and back, and an error that says why.

export async function ask(path, query = {}) {
  const pairs = Object.entries(query).filter(([, value]) => value !== "" && value !== null);
  const search = new URLSearchParams(pairs).toString();
  return answerOf(await fetch(search ? `${path}?${search}` : path));
}

export async function tell(path, body = {}) {
  return answerOf(
    await fetch(path, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
    }),
  );
}

async function answerOf(answer) {
  if (answer.status === 401) location.reload(); // the pairing has ended: the door is shown
  const body = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(body.error ?? `the device answered ${answer.status}`);
  return body;
}
