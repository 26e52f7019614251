<?php
// Run by the master of php-fpm, before it forks: its sites have been come by when its workers begin.
function fib(int $n): int
{
    return $n < 2 ? $n : fib($n - 1) + fib($n - 2);
}

class Preloaded
{
    public static function caught(int $n): int
    {
        try {
            throw new RuntimeException("number $n");
        } catch (RuntimeException $e) {
            return strlen($e->getMessage());
        }
    }
}

fib(5);
Preloaded::caught(1);
