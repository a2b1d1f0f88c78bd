package server

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"hubcap/cache/blobs"
	"hubcap/proxy/config"
)

// Shares and limits of what is kept free for other things than blobs.
const (
	// Below so many bytes free, the file system counts as full: Badger is
	// killed by SIGBUS on a file system that is. A share of the file system.
	reserveShare = 1. / 16
	minReserve   = 16 << 20
	maxReserve   = 64 << 20
	ballastShare = 1. / 64 // of the cache, at most maxReserve

	// Bytes of the budget for the span maps of fills and for the growth of the
	// index between two looks: Badger writes a full memory table, of 8 MiB,
	// before it deletes its log. A share of the cache.
	growthShare = 1. / 64
	minGrowth   = 8 << 20 // or an eighth of a small cache
	maxGrowth   = 16 << 20
)

// sizeFile has the cache size that was chosen at the first start.
const sizeFile = "cache-size"

// Disk is how the file system is shared out, in bytes.
type Disk struct {
	Cache   int64 // everything in the data directory, at most
	MaxBlob int64 // larger blobs are not stored
	MinFree int64 // left free for others

	Reserve int64 // free in the file system, below which it counts as full
	Ballast int64 // held in a file that is deleted in that case
	Growth  int64 // of Cache, left for the index and for fills between two looks
}

// sizeDisk sizes the cache by its configuration and its file system.
func sizeDisk(c *config.Config, store *blobs.Store, log *slog.Logger) (Disk, error) {
	space, err := store.Space()
	if err != nil {
		return Disk{}, fmt.Errorf("the size of its file system cannot be read: %w", err)
	}
	size := c.CacheBytes(space.Total, space.Free)
	if !c.CacheSizeSet() {
		size = rememberedSize(store.Dir(sizeFile), size, space.Total, log)
	}
	minFree, small := c.MinFreeBytes(space.Total)
	if small {
		log.Info("the file system is small: less of it is kept free than the default of HUBCAP_MIN_FREE",
			"file_system", gib(space.Total), "kept_free", gib(minFree), "default", c.MinFree)
	}
	share := func(of int64, f float64) int64 { return int64(float64(of) * f) }
	return Disk{
		Cache: size, MaxBlob: c.MaxBlobBytes(size), MinFree: minFree,
		Reserve: min(max(share(space.Total, reserveShare), minReserve), maxReserve),
		Ballast: min(share(size, ballastShare), maxReserve),
		Growth:  min(max(share(size, growthShare), min(minGrowth, size/8)), maxGrowth),
	}, nil
}

// CacheSize returns the size of the cache, in bytes, that a configuration has on
// a file system of total bytes with free ones. It changes nothing.
func CacheSize(c config.Config, total, free int64) int64 {
	size := c.CacheBytes(total, free)
	if c.CacheSizeSet() {
		return size
	}
	var known sizing
	if text, err := os.ReadFile(filepath.Join(c.DataDir, sizeFile)); err == nil {
		_, _ = fmt.Sscan(string(text), &known.cache, &known.total)
	}
	if known.cache <= 0 {
		return size
	}
	return min(known.cache, total)
}

// sizing is a cache size, and the size of the file system that it was chosen
// for; both in bytes.
type sizing struct{ cache, total int64 }

// grownShare is the share of its size by which a file system must have grown
// for the cache to grow with it: the size of some varies a little.
const grownShare = 100

// rememberedSize returns the size of a cache for which none is configured, on a
// file system of total bytes. At the first start it is first, which depends on
// what is free then; the file remembers it for later starts. It changes only
// when the file system has grown. All sizes are in bytes.
func rememberedSize(file string, first, total int64, log *slog.Logger) int64 {
	known, err := readSizing(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		known = sizing{first, total}
	case err != nil: // it may be readable at the next start
		log.Warn("the cache size of earlier starts cannot be read; another one is used until the next start", "file", file, "err", err)
		return first
	case total > known.total+known.total/grownShare:
		now := sizing{config.GrownCacheBytes(known.cache, known.total, total), total}
		log.Info("the file system has grown, and the cache with it", "file_system_bytes", total, "before_bytes", known.total,
			"cache_bytes", now.cache, "cache_before_bytes", known.cache)
		known = now
	default:
		return min(known.cache, total)
	}
	if err := known.write(file); err != nil {
		log.Warn("the cache size cannot be saved; it is chosen again at the next start", "file", file, "err", err)
	}
	return min(known.cache, total)
}

// readSizing reads a file that write wrote. One with other content, after a
// power cut, counts as no file.
func readSizing(file string) (sizing, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return sizing{}, err
	}
	var s sizing
	if _, err := fmt.Sscan(string(text), &s.cache, &s.total); err != nil || s.cache <= 0 || s.total <= 0 {
		return sizing{}, fs.ErrNotExist
	}
	return s, nil
}

func (s sizing) write(file string) error {
	return replaceFile(file, func(w io.Writer) error {
		_, err := fmt.Fprintln(w, s.cache, s.total)
		return err
	})
}

// replaceFile replaces a file as a whole by what write writes. Without the sync,
// a power cut may leave an empty one.
func replaceFile(file string, write func(io.Writer) error) error {
	next := file + ".new"
	f, err := os.OpenFile(next, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(write(f), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(next, file)
}
