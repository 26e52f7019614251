/** Numbers for values, handed out as the values are met: equal values, by their key, have the same number. */
export class Numbering<T> {
  private readonly numbers = new Map<string, number>();
  private readonly values: T[] = [];

  constructor(private readonly keyOf: (value: T) => string) {}

  numberOf(value: T): number {
    const key = this.keyOf(value);
    const known = this.numbers.get(key);
    if (known !== undefined) return known;
    const number = this.values.length;
    this.numbers.set(key, number);
    this.values.push(value);
    return number;
  }

  valueOf(number: number): T {
    return this.values[number]!;
  }

  get size(): number {
    return this.values.length;
  }
}
