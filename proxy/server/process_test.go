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
		want        Process
	}{
		{"ulimit -n 256", 256, none, Process{Connections: 51, Waiting: 26, Fills: 32, Transfers: 32, Manifests: 64 << 20}},
		{"ulimit -n 1024", 1024, none, Process{Connections: 204, Waiting: 104, Fills: 128, Transfers: 64, Manifests: 64 << 20}},
		{"what systemd gives", 524_288, none, Process{Connections: 16_384, Waiting: 4096, Fills: 256, Transfers: 64, Manifests: 64 << 20}},
		{"no limit", math.MaxInt32, none, Process{Connections: 16_384, Waiting: 4096, Fills: 256, Transfers: 64, Manifests: 64 << 20}},
		{"a container of 256 MiB", 1 << 20, 205 << 20, Process{Connections: 820, Waiting: 4096, Fills: 102, Transfers: 64, Manifests: 205 << 17}},
		{"a container of 64 MiB", 1 << 20, 51 << 20, Process{Connections: 204, Waiting: 4096, Fills: 25, Transfers: 64, Manifests: 51 << 17}},
		{"next to nothing", 16, 1 << 10, Process{Connections: 1, Waiting: 1, Fills: 1, Transfers: 16, Manifests: 128}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.want.Descriptors, tc.want.Memory = tc.descriptors, tc.memory
			if got := shareOut(tc.descriptors, tc.memory); got != tc.want {
				t.Errorf("got  %+v\nwant %+v", got, tc.want)
			}
		})
	}
}
