package history

import (
	"bytes"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"hubcap/e2e/testkit"
)

// box is a box with a counter and a value.
type box struct {
	saved, disk float64
	noDisk      bool
	clock       *testkit.Clock
}

func newBox(at time.Time) *box { return &box{clock: testkit.NewClock(at)} }

func (b *box) history() *History {
	return New(func() (counters, values map[string]float64) {
		values = map[string]float64{"disk": b.disk}
		if b.noDisk {
			values = nil
		}
		return map[string]float64{"saved": b.saved}, values
	}, b.clock.Now)
}

var monday = time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)

func want(t *testing.T, points []Point, wants ...Point) {
	t.Helper()
	if len(points) != len(wants) {
		t.Fatalf("%d points, want %d: %v", len(points), len(wants), points)
	}
	for i, p := range points {
		if !p.Start.Equal(wants[i].Start) || !maps.Equal(p.Values, wants[i].Values) {
			t.Errorf("point %d is %v, want %v", i, p, wants[i])
		}
	}
}

func TestPoints(t *testing.T) {
	b := newBox(monday.Add(23*time.Hour + 52*time.Minute))
	b.saved = 1000 // before: not of this history
	h := b.history()
	for _, now := range []box{{saved: 1010, disk: 1}, {saved: 1030, disk: 2}, {saved: 1030, noDisk: true}, {saved: 5, disk: 4}} {
		b.saved, b.disk, b.noDisk = now.saved, now.disk, now.noDisk
		h.Sample()
		b.clock.Advance(4 * time.Minute)
	}
	late := monday.Add(23*time.Hour + 50*time.Minute)
	want(t, h.Points(Fine, time.Time{}),
		Point{late, map[string]float64{"saved": 10, "disk": 1}},
		Point{late.Add(5 * time.Minute), map[string]float64{"saved": 20, "disk": 2}},
		Point{late.Add(10 * time.Minute), map[string]float64{"saved": 5, "disk": 4}})
	want(t, h.Points(Day, time.Time{}),
		Point{monday, map[string]float64{"saved": 30, "disk": 2}},
		Point{monday.Add(24 * time.Hour), map[string]float64{"saved": 5, "disk": 4}})
	want(t, h.Points(Fine, late.Add(6*time.Minute)), Point{late.Add(10 * time.Minute), map[string]float64{"saved": 5, "disk": 4}})
}

// TestClockSetBack loses nothing and keeps the order; a clock that was years
// ahead does not stop the history.
func TestClockSetBack(t *testing.T) {
	b := newBox(monday.Add(time.Hour))
	h := b.history()
	b.saved = 1
	h.Sample()
	b.clock.Advance(-3 * time.Minute)
	b.saved = 3
	h.Sample()
	want(t, h.Points(Fine, time.Time{}), Point{monday.Add(time.Hour), map[string]float64{"saved": 3, "disk": 0}})
	b.clock.Advance(10 * 365 * 24 * time.Hour)
	h.Sample()
	b.clock.Advance(-10 * 365 * 24 * time.Hour)
	b.saved = 4
	h.Sample()
	for _, step := range []Step{Fine, Day} {
		points := h.Points(step, time.Time{})
		if last := points[len(points)-1]; last.Start.Year() != 2026 || last.Values["saved"] == 0 {
			t.Errorf("the last point is %v", last)
		}
	}
}

// TestBounded runs a box for three years, one sample an hour.
func TestBounded(t *testing.T) {
	b := newBox(monday)
	h := b.history()
	for range 3 * 365 * 24 {
		b.saved++
		h.Sample()
		b.clock.Advance(time.Hour)
	}
	if n, m := len(h.Points(Fine, time.Time{})), len(h.Points(Day, time.Time{})); n != 288 || m != 400 {
		t.Errorf("%d and %d points, want 288 and 400", n, m)
	}
	var file bytes.Buffer
	if err := h.Save(&file); err != nil || file.Len() > 100<<10 {
		t.Errorf("%d bytes, %v", file.Len(), err)
	}
}

// TestManySeries keeps the first of them, and these go on.
func TestManySeries(t *testing.T) {
	n := 0.
	h := New(func() (counters, values map[string]float64) {
		values = make(map[string]float64)
		for i := range 1000 {
			values[fmt.Sprint("limit", i)] = 1
		}
		return map[string]float64{"saved": n}, values
	}, testkit.NewClock(monday).Now)
	for range 3 {
		h.Sample()
		n++
	}
	if p := h.Points(Day, time.Time{}); len(p) != 1 || len(p[0].Values) != maxSeries || p[0].Values["saved"] != 2 {
		t.Errorf("%v", p)
	}
}

func TestSaved(t *testing.T) {
	b := newBox(monday)
	h := b.history()
	b.saved = 7
	h.Sample()
	var file bytes.Buffer
	if err := h.Save(&file); err != nil {
		t.Fatal(err)
	}
	b.saved = 0 // a new process
	h = b.history()
	if err := h.Load(bytes.NewReader(file.Bytes())); err != nil {
		t.Fatal(err)
	}
	b.saved = 2
	h.Sample()
	want(t, h.Points(Day, time.Time{}), Point{monday, map[string]float64{"saved": 9, "disk": 0}})

	for _, damaged := range []string{
		"", "{", `{"version":2}`, file.String()[:file.Len()/2],
		`{"version":1,"fine":[{"start":"2026-11-23T00:00:00Z"}]}`,
		`{"version":1,"days":[{"start":"2026-11-23T00:00:00Z","values":{}},{"start":"2026-11-22T00:00:00Z","values":{}}]}`,
	} {
		h := b.history()
		if err := h.Load(strings.NewReader(damaged)); err == nil {
			t.Errorf("%q: no error", damaged)
		}
		if n := len(h.Points(Day, time.Time{})); n != 0 {
			t.Errorf("%q: %d points", damaged, n)
		}
	}
}
