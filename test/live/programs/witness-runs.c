/* Runs the witness that is a library. */
int witness(void);
int main(void) { return witness(); }
