// Periods, as the device counts them and as inputs of local time take them.

/** What two inputs of local time say, in Unix seconds; null: nothing, or it ends before it starts. */
export function periodOf(from, to) {
  const [start, end] = [from, to].map((input) => new Date(input.value).getTime() / 1000);
  return end > start ? [start, end] : null;
}

/** Unix seconds as an input of local time takes them. */
export function localOf(seconds) {
  const date = new Date(seconds * 1000);
  const shifted = new Date(date.getTime() - date.getTimezoneOffset() * 60_000);
  return shifted.toISOString().slice(0, 19);
}
