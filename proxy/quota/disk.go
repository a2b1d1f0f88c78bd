package quota

import (
	"os"
	"strconv"
	"strings"
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

// Remembered is the number in a file, or else n, which the file has from then
// on: what is settled once stays so. Where it cannot be written it is settled
// anew the next time.
func Remembered(file string, n int64) int64 {
	text, err := os.ReadFile(file)
	if err != nil {
		_ = os.WriteFile(file, []byte(strconv.FormatInt(n, 10)+"\n"), 0o600)
		return n
	}
	if before, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err == nil && before > 0 {
		return before
	}
	return n
}
