package server

import (
	"math"
	"slices"
	"testing"

	"hubcap/proxy/config"
)

func TestShares(t *testing.T) {
	const none = math.MaxInt64
	alone, site, bucket, both := pools{1, 1}, pools{2, 2}, pools{1, 2}, pools{2, 3}
	for _, tc := range []struct {
		name        string
		descriptors int
		memory      int64
		pools       pools
		want        Process
	}{
		{"ulimit -n 256", 256, none, alone, Process{Connections: 51, Waiting: 26, Fills: 32, Transfers: 32, Manifests: 64 << 20}},
		{"ulimit -n 1024", 1024, none, alone, Process{Connections: 204, Waiting: 104, Fills: 128, Transfers: 64, Manifests: 64 << 20}},
		{"what systemd gives", 524_288, none, alone, Process{Connections: 16_384, Waiting: 4096, Fills: 256, Transfers: 64, Manifests: 64 << 20}},
		{"no limit", math.MaxInt32, none, alone, Process{Connections: 16_384, Waiting: 4096, Fills: 256, Transfers: 64, Manifests: 64 << 20}},
		{"a container of 256 MiB", 1 << 20, 205 << 20, alone, Process{Connections: 820, Waiting: 4096, Fills: 102, Transfers: 64, Manifests: 205 << 17}},
		{"a container of 64 MiB", 1 << 20, 51 << 20, alone, Process{Connections: 204, Waiting: 4096, Fills: 25, Transfers: 64, Manifests: 51 << 17}},
		{"ulimit -n 1024, in a site", 1024, none, site, Process{Connections: 204, Waiting: 104, Fills: 64, Transfers: 64, Manifests: 64 << 20}},
		{"what systemd gives, in a site", 524_288, none, site, Process{Connections: 16_384, Waiting: 4096, Fills: 256, Transfers: 64, Manifests: 64 << 20}},
		{"a container of 256 MiB, in a site", 1 << 20, 205 << 20, site, Process{Connections: 820, Waiting: 4096, Fills: 51, Transfers: 64, Manifests: 205 << 17}},
		{"ulimit -n 256, with a bucket", 256, none, bucket, Process{Connections: 51, Waiting: 26, Fills: 32, Transfers: 16, Manifests: 64 << 20}},
		{"ulimit -n 1024, in a site with a bucket", 1024, none, both, Process{Connections: 204, Waiting: 104, Fills: 64, Transfers: 42, Manifests: 64 << 20}},
		{"what systemd gives, in a site with a bucket", 524_288, none, both, Process{Connections: 16_384, Waiting: 4096, Fills: 256, Transfers: 64, Manifests: 64 << 20}},
		{"next to nothing", 16, 1 << 10, alone, Process{Connections: 1, Waiting: 1, Fills: 1, Transfers: 16, Manifests: 128}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.want.Descriptors, tc.want.Memory = tc.descriptors, tc.memory
			if got := shareOut(tc.descriptors, tc.memory, tc.pools); got != tc.want {
				t.Errorf("got  %+v\nwant %+v", got, tc.want)
			}
		})
	}
}

// TestPools: other boxes and a bucket take connections of their own.
func TestPools(t *testing.T) {
	const one, other = "http://127.0.0.1:9", "http://127.0.0.2:9"
	site, sisters, bucket := []string{"HUBCAP_SITE=" + one + "," + other, "HUBCAP_SITE_SELF=" + one}, []string{"HUBCAP_SISTERS=" + other}, []string{"HUBCAP_S3_URL=" + other + "/bucket"}
	for _, tc := range []struct {
		environ []string
		want    pools
	}{{nil, pools{1, 1}}, {site, pools{2, 2}}, {sisters, pools{2, 2}}, {bucket, pools{1, 2}}, {slices.Concat(site, bucket), pools{2, 3}}} {
		c, err := config.Load(tc.environ)
		if err != nil {
			t.Fatal(err)
		}
		if got := poolsOf(c); got != tc.want {
			t.Errorf("%v: %+v, want %+v", tc.environ, got, tc.want)
		}
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
