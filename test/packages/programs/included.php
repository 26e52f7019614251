<?php
// Compiled while sites.php runs.
function included(): string
{
    return 'included';
}
echo included(), "\n";
