// A file that is too large is refused before it is sent, with a message in the visitor's language.
(() => {
  const maxBytes = __MAX_BYTES__;
  const texts = __TEXTS__;
  const text = texts[navigator.language.slice(0, 2)] ?? texts.en;
  window.pageTitle = text.title; // set once Gradio has set its own

  function refuse() {
    document.getElementById("refusal")?.remove();
    const box = document.createElement("div");
    box.id = "refusal";
    box.setAttribute("role", "alert");
    box.textContent = text.too_large_file;
    box.onclick = () => box.remove();
    document.body.append(box);
    setTimeout(() => box.remove(), 10_000);
  }

  function check(event, files) {
    const isTooLarge = [...(files ?? [])].some((file) => file.size > maxBytes);
    if (!isTooLarge) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    if (event.type === "change") event.target.value = "";
    refuse();
  }

  window.addEventListener("drop", (event) => check(event, event.dataTransfer?.files), true);
  window.addEventListener("change", (event) => check(event, event.target.files), true);
})();
