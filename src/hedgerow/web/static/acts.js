// What the owner does: pause, decline, forget, delete. Each says what came of it.

import { ask, tell } from "./api.js";
import { $, put } from "./dom.js";
import { localOf, periodOf } from "./times.js";
import * as words from "./words.js";

const TOAST_MILLISECONDS = 6000;

let forgetting = ""; // whose period; "" is everybody's
let view = null;
let hiding = 0;

export function startActs() {
  $("pause").addEventListener("click", () =>
    attempt($("pause"), async () => {
      const { paused } = await tell("api/pause", { paused: !view.sharing.paused });
      say(paused ? "Paused, until you resume." : "Sharing goes on.");
    }),
  );
  $("decline").addEventListener("click", () =>
    attempt($("decline"), async () => {
      const { declined } = await tell("api/decline");
      say(declined ? "Declined. This device takes no part in that round." : "There was no task any more.");
    }),
  );
  for (const button of document.querySelectorAll("[data-close]")) {
    button.addEventListener("click", () => button.closest("dialog").close());
  }
  startForget();
  startDelete();
}

/** What the device looks like now. */
export function actsTold(told) {
  view = told;
}

/** A line at the foot of the window for a moment; a screen reader hears it. */
export function say(text) {
  clearTimeout(hiding);
  $("toast").hidden = false;
  put($("toast"), text);
  hiding = setTimeout(() => { $("toast").hidden = true; }, TOAST_MILLISECONDS);
}

async function attempt(button, act) {
  button.disabled = true;
  try {
    await act();
  } catch (error) {
    say(error.message);
  } finally {
    button.disabled = false;
  }
}

// Forget -------------------------------------------------------------------------------------------

export function askToForget(stream, period) {
  forgetting = stream ?? "";
  const end = period?.[1] ?? view?.time_seconds ?? Date.now() / 1000;
  const start = period?.[0] ?? end - 3600;
  $("forget-from").value = localOf(start);
  $("forget-to").value = localOf(end);
  put($("forget-whose"), forgetting === "" ? "What every stream did in this time." : `What ${forgetting} did in this time.`);
  $("forget-wrong").hidden = true;
  $("forget-dialog").showModal();
  count();
}

function startForget() {
  $("forget").addEventListener("click", () => askToForget(null, null));
  for (const id of ["forget-from", "forget-to"]) $(id).addEventListener("change", count);
  $("forget-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    $("forget-do").disabled = true;
    try {
      const gone = await tell("api/forget", wanted());
      $("forget-dialog").close();
      say(`Forgotten: ${amount(gone)}.`);
    } catch (error) {
      wrong("forget-wrong", error);
    }
  });
}

function wanted() {
  const [start_seconds, end_seconds] = periodOf($("forget-from"), $("forget-to")) ?? [0, 0];
  return { stream: forgetting, start_seconds, end_seconds };
}

async function count() {
  $("forget-do").disabled = true;
  if (periodOf($("forget-from"), $("forget-to")) === null) {
    put($("forget-count"), "A period ends after it starts.");
    return;
  }
  try {
    const touched = await ask("api/touched", wanted());
    put($("forget-count"), `${amount(touched)}.`);
    $("forget-do").disabled = touched.windows + touched.notices === 0;
  } catch (error) {
    wrong("forget-wrong", error);
  }
}

function amount(touched) {
  const parts = [words.plural(touched.windows, "window", "windows")];
  if (touched.bytes > 0) parts[0] += ` (${words.bytes(touched.bytes)})`;
  parts.push(words.plural(touched.notices, "decision", "decisions"));
  return parts.join(" and ");
}

function wrong(id, error) {
  put($(id), error.message);
  $(id).hidden = false;
}

// Delete -------------------------------------------------------------------------------------------

function startDelete() {
  $("delete").addEventListener("click", () => {
    $("delete-form").reset();
    put($("delete-name"), view?.name ?? "");
    $("delete-wrong").hidden = true;
    $("delete-do").disabled = true;
    $("delete-dialog").showModal();
    $("delete-confirm").focus();
  });
  $("delete-confirm").addEventListener("input", () => {
    $("delete-do").disabled = $("delete-confirm").value.trim() !== view?.name;
  });
  $("delete-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    $("delete-do").disabled = true;
    try {
      const gone = await tell("api/delete", { confirm: $("delete-confirm").value, record: $("delete-record").checked });
      $("delete-dialog").close();
      say(`Deleted: ${amount(gone)}. The device starts from nothing.`);
    } catch (error) {
      wrong("delete-wrong", error);
    }
  });
}
