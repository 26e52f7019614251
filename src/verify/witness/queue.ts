/** Addresses to run from, the lowest first: what comes before a place has been seen, mostly, when it is its turn. */
export class Queue {
  private readonly heap: number[] = [];
  private readonly members = new Set<number>();

  isEmpty(): boolean {
    return this.heap.length === 0;
  }

  add(address: number): void {
    const { heap, members } = this;
    if (members.has(address)) return;
    members.add(address);
    let at = heap.length;
    for (; at > 0; at = (at - 1) >> 1) {
      const parent = heap[(at - 1) >> 1]!;
      if (parent <= address) break;
      heap[at] = parent;
    }
    heap[at] = address;
  }

  next(): number | undefined {
    const { heap } = this;
    const first = heap[0];
    const last = heap.pop();
    if (first === undefined || last === undefined) return undefined;
    this.members.delete(first);
    if (heap.length === 0) return first;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= heap.length) break;
      if (child + 1 < heap.length && heap[child + 1]! < heap[child]!) child++;
      if (heap[child]! >= last) break;
      heap[at] = heap[child]!;
      at = child;
    }
    heap[at] = last;
    return first;
  }
}
