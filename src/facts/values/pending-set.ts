/** Numbers that wait, each once; the smallest is taken first: a heap. */
export class PendingSet {
  private readonly heap: number[] = [];
  private readonly listed = new Set<number>();

  add(n: number): void {
    if (this.listed.has(n)) return;
    this.listed.add(n);
    const { heap } = this;
    let i = heap.push(n) - 1;
    while (i > 0 && heap[(i - 1) >> 1]! > n) {
      heap[i] = heap[(i - 1) >> 1]!;
      i = (i - 1) >> 1;
    }
    heap[i] = n;
  }

  take(): number | undefined {
    const { heap } = this;
    const top = heap[0];
    if (top === undefined) return undefined;
    this.listed.delete(top);
    const last = heap.pop()!;
    const size = heap.length;
    if (size === 0) return top;
    let i = 0;
    for (let child = 1; child < size; child = 2 * i + 1) {
      if (child + 1 < size && heap[child + 1]! < heap[child]!) child++;
      if (heap[child]! >= last) break;
      heap[i] = heap[child]!;
      i = child;
    }
    heap[i] = last;
    return top;
  }
}
