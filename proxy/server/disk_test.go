package server

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hubcap/e2e/testkit"
)

// TestCacheSize starts several times on one file system, which others fill,
// which grows, and which shrinks.
func TestCacheSize(t *testing.T) {
	file := filepath.Join(t.TempDir(), "cache-size")
	logged := new(testkit.Log)
	log := slog.New(slog.NewTextHandler(logged, nil))
	for i, tc := range []struct{ first, total, want int64 }{
		{500, 1000, 500},  // the first start
		{100, 1000, 500},  // there is less free now
		{100, 1009, 500},  // it varies
		{100, 2000, 1000}, // it has grown, and half of that is the cache's
		{100, 2000, 1000},
		{100, 800, 800},   // it has shrunk
		{100, 2000, 1000}, // and grown back
	} {
		if got := rememberedSize(file, tc.first, tc.total, log); got != tc.want {
			t.Errorf("start %d: %d bytes, want %d", i, got, tc.want)
		}
	}
	if n := strings.Count(logged.String(), "has grown"); n != 1 {
		t.Errorf("the log says %d times that it has grown:\n%s", n, logged)
	}
}

func TestCacheSizeFiles(t *testing.T) {
	for content, want := range map[string][2]int64{ // at this start, and at the next one on twice the total
		"700\n":      {500, 1000}, // without the file system's size
		"700 1000\n": {700, 1200},
		"":           {500, 1000}, // after a power cut
		"garbage":    {500, 1000},
		"-1 1000":    {500, 1000},
		"0":          {500, 1000},
	} {
		file := filepath.Join(t.TempDir(), "cache-size")
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		log := slog.New(slog.DiscardHandler)
		got := [2]int64{rememberedSize(file, 500, 1000, log), rememberedSize(file, 1, 2000, log)}
		if got != want {
			t.Errorf("%q: %v, want %v", content, got, want)
		}
	}
	// A file that cannot be read does not make this the first start.
	dir := filepath.Join(t.TempDir(), "cache-size")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if got := rememberedSize(dir, 500, 1000, slog.New(slog.DiscardHandler)); got != 500 {
		t.Errorf("%d bytes, want 500", got)
	}
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		t.Errorf("it was written over: %v", err)
	}
}

// The cache size that was settled at the first start stays.
func TestCacheSizeIsRemembered(t *testing.T) {
	dir := t.TempDir()
	first := start(t, "HUBCAP_DATA_DIR="+dir, "HUBCAP_CACHE_SIZE=")
	size := first.line("cache")["size"]
	first.cancel()
	if err := first.wait(); err != nil {
		t.Fatal(err)
	}
	remembered := filepath.Join(dir, "cache-size")
	if err := os.WriteFile(remembered, []byte("3221225472 1152921504606846976\n"), 0o600); err != nil {
		t.Fatalf("first size %v: %v", size, err)
	}
	if got := start(t, "HUBCAP_DATA_DIR="+dir, "HUBCAP_CACHE_SIZE=").line("cache")["size"]; got != "3.0GiB" {
		t.Errorf("the size is %v after a restart, want what was remembered", got)
	}
}
