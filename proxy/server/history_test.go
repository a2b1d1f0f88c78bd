package server

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hubcap/eviction/advisor"
	"hubcap/metrics/history"
	"hubcap/proxy/config"
	"hubcap/proxy/images"
)

// historyOf returns the points that the admin port answers with.
func (b *box) historyOf(dir, query string) (status int, points []history.Point) {
	b.t.Helper()
	var answer struct{ Points []history.Point }
	status = b.askAdmin(dir, "/api/v1/history"+query, &answer)
	return status, answer.Points
}

// TestHistorySurvivesARestart counts what two runs of one box have sent, and
// starts a third one with a damaged file.
func TestHistorySurvivesARestart(t *testing.T) {
	dir := t.TempDir()
	end := func(b *box) {
		b.cancel()
		if err := b.wait(); err != nil {
			t.Fatal(err)
		}
	}
	asked := 0.
	for range 2 {
		b := start(t, "HUBCAP_DATA_DIR="+dir, "HUBCAP_OFFLINE=true", "HUBCAP_DRAIN_TIMEOUT=20ms")
		for range 3 {
			b.get(b.mirror, "/v2/library/none/manifests/v1")
			b.get(b.mirror, "/setup") // is no request for content
			asked++
		}
		end(b)
	}
	b := start(t, "HUBCAP_DATA_DIR="+dir, "HUBCAP_OFFLINE=true", "HUBCAP_DRAIN_TIMEOUT=20ms")
	_, points := b.historyOf(dir, "?step=1d")
	got := 0.
	for _, p := range points { // two at midnight
		got += p.Values["requests"]
	}
	if len(points) == 0 || got != asked || points[0].Values["cache_budget_bytes"] == 0 || points[0].Values["saved_bytes"] != 0 {
		t.Errorf("%v, want %v requests, and no error's bytes saved", points, asked)
	}
	for query, want := range map[string]int{"": 200, "?step=5m": 200, "?step=2d": 422, "?since=yesterday": 422, "?until=x": 422, "?since=2026-11-28T10:00:00Z": 200} {
		if status, _ := b.historyOf(dir, query); status != want {
			t.Errorf("%q: %d, want %d", query, status, want)
		}
	}
	end(b)
	if err := os.WriteFile(dir+"/history", []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	b = start(t, "HUBCAP_DATA_DIR="+dir, "HUBCAP_OFFLINE=true", "HUBCAP_DRAIN_TIMEOUT=20ms")
	if _, points := b.historyOf(dir, ""); len(points) != 0 || !strings.Contains(b.log.String(), "begins anew") {
		t.Errorf("%d points; log:\n%s", len(points), b.log)
	}
}

// TestSavedWhileItRuns: what a killed process has counted is in its files, outages
// included.
func TestSavedWhileItRuns(t *testing.T) {
	dir := t.TempDir()
	c, err := config.Load([]string{"HUBCAP_DATA_DIR=" + dir, "HUBCAP_CACHE_SIZE=64MiB", "HUBCAP_MIN_FREE=0", "HUBCAP_OFFLINE=true"})
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(c, Options{Log: slog.New(slog.DiscardHandler), Version: "test", Adjust: func(s *Settings) { s.SnapshotInterval = 20 * time.Millisecond }})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.Images.Walk(images.Terms{Days: 30})
	s.history.Sample()
	saved := history.New(func() (counters, values map[string]float64) { return nil, nil }, time.Now)
	capacity := advisor.NewCapacity(time.Now)
	for end := time.Now().Add(soon); ; time.Sleep(10 * time.Millisecond) {
		err := errors.Join(loadFile(filepath.Join(dir, "history"), saved.Load), loadFile(filepath.Join(dir, "capacity"), capacity.Load))
		if points := saved.Points(history.Fine, time.Time{}); err == nil && len(points) > 0 {
			for _, name := range []string{"client_bytes", "upstream_bytes", "requests", "cached", "outage_images", "outage_ready", "outage_missing_bytes", "cache_bytes"} {
				if _, ok := points[0].Values[name]; !ok {
					t.Errorf("%s is not in %v", name, points[0])
				}
			}
			return
		}
		if time.Now().After(end) {
			t.Fatal("nothing is saved", err)
		}
	}
}
