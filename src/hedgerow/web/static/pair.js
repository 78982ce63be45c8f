// The door: a code for a place in the house.

import { $, put } from "./dom.js";

$("pairing").addEventListener("submit", async (event) => {
  event.preventDefault();
  $("wrong").hidden = true;
  const answer = await fetch("api/pair", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ code: $("code").value }),
  });
  if (answer.ok) {
    location.reload();
    return;
  }
  const { error } = await answer.json();
  put($("wrong"), error);
  $("wrong").hidden = false;
  $("code").select();
});

$("enter").disabled = false;
