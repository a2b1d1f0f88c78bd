package quota

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
)

// The margins of the disk.
const (
	// Bytes free below which the file system counts as full, since a full one
	// kills the index: a share of it, within limits.
	reserveShare = 1. / 16
	minReserve   = 16 << 20
	maxReserve   = 64 << 20
	ballastShare = 1. / 64 // of the cache, at most maxReserve

	// Bytes of the budget left for the notes of downloads and for what the
	// index takes for a moment: Badger writes a full memory table, of 8 MiB,
	// before it gives up the log of it. A share of the cache, within limits.
	growthShare = 1. / 64
	minGrowth   = 8 << 20 // or an eighth of a small cache
	maxGrowth   = 16 << 20
)

// Margins are the bytes that a cache leaves to what is beside its blobs.
type Margins struct {
	Reserve int64 // free in the file system, below which it counts as full
	Ballast int64 // set aside for that case
	Growth  int64 // of the cache's size, for what the index takes between two looks
}

// MarginsOf are those of a cache of some bytes on a file system of total ones.
func MarginsOf(cache, total int64) Margins {
	share := func(of int64, f float64) int64 { return int64(float64(of) * f) }
	return Margins{
		Reserve: min(max(share(total, reserveShare), minReserve), maxReserve),
		Ballast: min(share(cache, ballastShare), maxReserve),
		Growth:  min(max(share(cache, growthShare), min(minGrowth, cache/8)), maxGrowth),
	}
}

// settled is a cache size, and the size of the file system that it was settled
// on; both in bytes.
type settled struct{ cache, total int64 }

// muchGrown is the share by which a file system has to have grown for the cache
// to grow with it: some vary a little by themselves.
const muchGrown = 100

// CacheSize returns the bytes of a cache for which the operator has set no size,
// on a file system of total bytes: first, at the first start. The file remembers
// that, because what is free then is the measure. Where the file system has
// grown since, it is grown(size, total then) from now on.
func CacheSize(file string, first, total int64, grown func(size, before int64) int64, log *slog.Logger) int64 {
	known, err := recall(file, total)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		known = settled{first, total}
	case err != nil: // it may be there at the next start
		log.Warn("the cache size that was settled before cannot be read; another one counts until the next start", "file", file, "err", err)
		return first
	case total > known.total+known.total/muchGrown:
		now := settled{grown(known.cache, known.total), total}
		log.Info("the file system has grown, and the cache with it", "file_system_bytes", total, "before_bytes", known.total,
			"cache_bytes", now.cache, "cache_before_bytes", known.cache)
		known = now
	default:
		return min(known.cache, total)
	}
	if err := remember(file, known); err != nil {
		log.Warn("the cache size cannot be remembered, and is settled anew at the next start", "file", file, "err", err)
	}
	return min(known.cache, total)
}

// recall reads a file that remember wrote. What is in none of its forms, after
// a power cut, counts as no file. Former versions did not write the total; it is
// taken to be today's.
func recall(file string, total int64) (settled, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return settled{}, err
	}
	var s settled
	n, _ := fmt.Sscan(string(text), &s.cache, &s.total)
	switch {
	case n == 0 || s.cache <= 0:
		return settled{}, fs.ErrNotExist
	case n == 1 || s.total <= 0:
		s.total = total
		_ = remember(file, s) // else the next start does
	}
	return s, nil
}

// remember replaces the file as a whole.
func remember(file string, s settled) error {
	next := file + ".new"
	if err := os.WriteFile(next, fmt.Appendln(nil, s.cache, s.total), 0o600); err != nil {
		return err
	}
	return os.Rename(next, file)
}
