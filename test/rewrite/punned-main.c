/* Comes by the probe of punned.S a thousand times, and enters behind it as often, in two places. */
#include <stdio.h>

long walk(long value, long offset);

int main(void)
{
	long sum = 0;
	for (long i = 0; i < 1000; i++)
		sum += walk(i, 0) + 3 * walk(i, 1) + 7 * walk(i, 5);
	printf("%ld\n", sum);
	return 0;
}
