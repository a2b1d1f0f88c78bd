package server

import (
	"os"
	"strings"
	"testing"

	"hubcap/metrics/history"
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
	sent := 0.
	for range 2 {
		b := start(t, "HUBCAP_DATA_DIR="+dir, "HUBCAP_OFFLINE=true", "HUBCAP_DRAIN_TIMEOUT=20ms")
		for range 3 {
			_, _, body := b.get(b.mirror, "/v2/")
			sent += float64(len(body))
		}
		end(b)
	}
	b := start(t, "HUBCAP_DATA_DIR="+dir, "HUBCAP_OFFLINE=true", "HUBCAP_DRAIN_TIMEOUT=20ms")
	_, points := b.historyOf(dir, "?step=1d")
	got := 0.
	for _, p := range points { // two at midnight
		got += p.Values["client_bytes"]
	}
	if len(points) == 0 || got != sent || points[0].Values["cache_budget_bytes"] == 0 {
		t.Errorf("%v, want %v bytes sent", points, sent)
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
