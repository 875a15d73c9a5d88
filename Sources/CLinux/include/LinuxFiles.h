// Directory trees: fts(3) takes an array of mutable strings, and nftw(3) is not declared for everybody.
#pragma once
#include <features.h>
#include <errno.h>
#include <fts.h>
#include <stdio.h>

/// Removes a directory and all below it, without following links; 0 or -errno of the last failure.
static inline int linux_remove_tree(const char *path) {
    char *const roots[] = {(char *)path, NULL};
    int result = 0;
    FTS *tree = fts_open(roots, FTS_PHYSICAL | FTS_NOCHDIR, NULL);
    if (!tree) return -errno;
    for (FTSENT *entry; (entry = fts_read(tree));)
        if (entry->fts_info != FTS_D && remove(entry->fts_accpath) < 0) result = -errno;
    fts_close(tree);
    return result;
}
