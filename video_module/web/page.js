// A file that is too large or empty is refused before it is sent, with a message in the visitor's language.
(() => {
  const maxBytes = __MAX_BYTES__;
  const texts = __TEXTS__;
  const text = texts[navigator.language.slice(0, 2)] ?? texts.en;
  // called once Gradio has drawn the page and set a title of its own
  window.finishPage = () => {
    document.title = text.title;
    for (const button of document.querySelectorAll(".sign-out")) button.textContent = text.sign_out;
  };

  function refuse(message) {
    document.getElementById("refusal")?.remove();
    const box = document.createElement("div");
    box.id = "refusal";
    box.setAttribute("role", "alert");
    box.textContent = message;
    box.onclick = () => box.remove();
    document.body.append(box);
    setTimeout(() => box.remove(), 10_000);
  }

  function check(event, files) {
    const sizes = [...(files ?? [])].map((file) => file.size);
    const isTooLarge = sizes.some((size) => size > maxBytes);
    if (!isTooLarge && !sizes.includes(0)) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    if (event.type === "change") event.target.value = "";
    refuse(isTooLarge ? text.too_large_file : text.empty_file);
  }

  window.addEventListener("drop", (event) => check(event, event.dataTransfer?.files), true);
  window.addEventListener("change", (event) => check(event, event.target.files), true);
})();
