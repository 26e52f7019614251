<?php
// Passes the sites of PHP 8.2: request, compilation of files, calls, exceptions caught and not, errors of every severity.
// Prints only what is the same in every run.
set_error_handler(function (int $severity, string $message): bool {
    echo "handled: $message\n";
    return true;
});

function fibonacci(int $n): int
{
    return $n < 2 ? $n : fibonacci($n - 1) + fibonacci($n - 2);
}

function squares(int $n): Generator
{
    for ($i = 0; $i < $n; $i++) {
        yield $i * $i;
    }
}

final class Counter
{
    public static int $destroyed = 0;
    public function __construct(public readonly int $value) {}
    public function __destruct()
    {
        self::$destroyed++;
    }
    public function __call(string $name, array $arguments): string
    {
        return "$name(" . implode(',', $arguments) . ')';
    }
}

function fails(int $depth): void
{
    if ($depth === 0) {
        throw new LogicException('at the bottom');
    }
    try {
        fails($depth - 1);
    } finally {
        echo "unwound $depth\n";
    }
}

echo fibonacci(15), ' ', array_sum(iterator_to_array(squares(100))), "\n";
for ($i = 0; $i < 50; $i++) {
    $c = new Counter($i);
}
unset($c);
echo Counter::$destroyed, ' ', (new Counter(1))->anything(1, 2), "\n";
for ($i = 0; $i < 3; $i++) {
    try {
        fails($i);
    } catch (LogicException $e) {
        echo get_class($e), ': ', $e->getMessage(), "\n";
    }
}
try {
    intdiv(1, 0);
} catch (DivisionByZeroError $e) {
    echo $e->getMessage(), "\n";
}
include __DIR__ . '/included.php';
try {
    eval('this is not PHP');
} catch (ParseError $e) {
    echo "parse error\n";
}
echo $undefined ?? 'undefined', ' ', array_sum(array_map(fn (int $x): int => $x * 2, range(1, 1000))), "\n";
trigger_error('a warning of our own', E_USER_WARNING);
restore_error_handler();
error_reporting(E_ALL);
echo @file_get_contents('/nonexistent/file') === false ? "no such file\n" : "?\n";
echo "before the end\n";
register_shutdown_function(function (): void {
    echo "shut down\n";
    // Thrown with no frame left above it: the other of the two exception__thrown sites.
    throw new LogicException('from the shutdown function');
});
throw new RuntimeException('nobody catches this');
