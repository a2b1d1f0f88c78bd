package server

import (
	"math"
	"testing"
)

func TestShares(t *testing.T) {
	const none = math.MaxInt64
	for _, tc := range []struct {
		name        string
		descriptors int
		memory      int64
		pools       int // 1 if 0
		want        Process
	}{
		{"ulimit -n 256", 256, none, 0, Process{Connections: 51, Waiting: 26, Fills: 32, Transfers: 32, Manifests: 64 << 20}},
		{"ulimit -n 1024", 1024, none, 0, Process{Connections: 204, Waiting: 104, Fills: 128, Transfers: 64, Manifests: 64 << 20}},
		{"what systemd gives", 524_288, none, 0, Process{Connections: 16_384, Waiting: 4096, Fills: 256, Transfers: 64, Manifests: 64 << 20}},
		{"no limit", math.MaxInt32, none, 0, Process{Connections: 16_384, Waiting: 4096, Fills: 256, Transfers: 64, Manifests: 64 << 20}},
		{"a container of 256 MiB", 1 << 20, 205 << 20, 0, Process{Connections: 820, Waiting: 4096, Fills: 102, Transfers: 64, Manifests: 205 << 17}},
		{"a container of 64 MiB", 1 << 20, 51 << 20, 0, Process{Connections: 204, Waiting: 4096, Fills: 25, Transfers: 64, Manifests: 51 << 17}},
		{"ulimit -n 1024, in a site", 1024, none, 2, Process{Connections: 204, Waiting: 104, Fills: 64, Transfers: 64, Manifests: 64 << 20}},
		{"what systemd gives, in a site", 524_288, none, 2, Process{Connections: 16_384, Waiting: 4096, Fills: 256, Transfers: 64, Manifests: 64 << 20}},
		{"a container of 256 MiB, in a site", 1 << 20, 205 << 20, 2, Process{Connections: 820, Waiting: 4096, Fills: 51, Transfers: 64, Manifests: 205 << 17}},
		{"next to nothing", 16, 1 << 10, 0, Process{Connections: 1, Waiting: 1, Fills: 1, Transfers: 16, Manifests: 128}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.want.Descriptors, tc.want.Memory = tc.descriptors, tc.memory
			if got := shareOut(tc.descriptors, tc.memory, max(tc.pools, 1)); got != tc.want {
				t.Errorf("got  %+v\nwant %+v", got, tc.want)
			}
		})
	}
}

// TestGarbage: a small process has as much garbage as it holds, a large one 64 MiB
// or a quarter of what it holds.
func TestGarbage(t *testing.T) {
	for held, want := range map[uint64]uint64{0: 100, 1 << 20: 100, 64 << 20: 100, 128 << 20: 50, 256 << 20: 25, 1 << 40: 25} {
		if got := garbagePercent(held); got != want {
			t.Errorf("%d bytes: %d %%, want %d %%", held, got, want)
		}
	}
	if held, percent := heap(); held == 0 || percent == 0 {
		t.Errorf("the heap is not known: %d bytes, %d %%", held, percent)
	}
}
