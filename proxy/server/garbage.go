package server

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// maxGarbage is how many bytes of garbage pile up before they are collected,
	// in a process that holds more than that. What a full cache holds is tables
	// without pointers, of which a collection costs little: as much garbage as
	// is held, Go's own measure, would double the memory of a large cache.
	maxGarbage = 64 << 20
	// minGarbage and maxGarbageShare bound it, in percent of what is held.
	minGarbage, maxGarbageShare = 25, 100
	garbageEvery                = time.Second
)

// boundGarbage keeps the garbage in bounds until ctx ends, unless GOGC says
// otherwise. The walk at the start of the cache has its own measure.
func (s *Server) boundGarbage(ctx context.Context) {
	if os.Getenv("GOGC") != "" {
		return
	}
	tick := time.NewTicker(garbageEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		held, percent := heap()
		if next := garbagePercent(held); next != percent && !s.Cache.Status().Walking {
			debug.SetGCPercent(int(next)) //nolint:gosec // at most 100
		}
	}
}

// garbagePercent returns the percentage for debug.SetGCPercent of a process that
// holds so many bytes.
func garbagePercent(held uint64) uint64 {
	return min(max(maxGarbage*100/max(held, 1), minGarbage), maxGarbageShare)
}

// heap returns the bytes that the last collection has found in use, and the
// present percentage.
func heap() (held, percent uint64) {
	samples := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/gc/gogc:percent"}}
	metrics.Read(samples)
	return samples[0].Value.Uint64(), samples[1].Value.Uint64()
}
