/* Runs before the modules, and where they cannot: says what to do when the page is opened straight from disk. */
if (location.protocol === "file:") {
  addEventListener("DOMContentLoaded", () => {
    const about = document.getElementById("about");
    if (about) {
      about.textContent =
        "Browsers run this page only when a server sends it. Run 'python -m http.server --bind 127.0.0.1' in this " +
        "folder and open the address it prints, or use 'ablatable explore RUN --serve'.";
    }
    document.getElementById("main")?.remove();
    document.getElementById("tour-start")?.remove();
  });
}
