/*
 * Reads the selector of the file that this is compiled into. The test writes into the file how far it is from this
 * variable, once it knows: the selector has no symbol that a linker would find.
 */
static volatile long selector_distance = 0x5e1ec7055e1ec70f;
static volatile long *volatile selector_origin = &selector_distance;

static int selector(void) {
  if (*selector_origin == 0x5e1ec7055e1ec70f) return -1;
  return ((volatile signed char *)selector_origin)[*selector_origin];
}
