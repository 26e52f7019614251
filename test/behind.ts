/**
 * What helpers put away behind the test file that used them, when all of the file's own hooks have run.
 */
const waiting: (() => void)[] = [];

/** `task` is done when the test file that runs now is through. */
export function behindFile(task: () => void): void {
  waiting.push(task);
}

export function putAway(): void {
  for (const task of waiting.splice(0).reverse()) task();
}
