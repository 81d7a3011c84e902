export function render() {
  document.body.textContent = "Saliency";
}
