package proxy

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"hubcap/cache"
)

// deadlines is a response that remembers its write deadline.
type deadlines struct {
	http.ResponseWriter
	last time.Time
}

func (d *deadlines) SetWriteDeadline(at time.Time) error { d.last = at; return nil }

// TestDeadlineMovesWithTheProgress: a client has the same time for each cache.Chunk.
func TestDeadlineMovesWithTheProgress(t *testing.T) {
	const chunkTime = time.Hour
	w := &deadlines{ResponseWriter: httptest.NewRecorder()}
	a := newAnswer(w, time.Now(), chunkTime)
	for name, step := range map[string]struct {
		do   func() error
		want time.Duration
	}{
		"the head":       {func() error { a.head(200, 1); return nil }, chunkTime},
		"a few bytes":    {func() error { _, err := a.Write([]byte("few")); return err }, chunkTime},
		"a chunk":        {func() error { _, err := a.Write(make([]byte, cache.Chunk)); return err }, chunkTime},
		"a chunk and on": {func() error { _, err := a.Write(make([]byte, cache.Chunk+1)); return err }, 2 * chunkTime},
		"a manifest":     {func() error { _, err := a.Write(make([]byte, 4*cache.Chunk)); return err }, 4 * chunkTime},
		"a file":         {func() error { _, err := a.ReadFrom(bytes.NewReader(make([]byte, cache.Chunk))); return err }, chunkTime},
		"a flush":        {a.FlushError, chunkTime},
	} {
		before := time.Now()
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		if after := time.Now(); w.last.Before(before.Add(step.want)) || w.last.After(after.Add(step.want)) {
			t.Errorf("%s: the deadline is in %v, want %v", name, w.last.Sub(before), step.want)
		}
	}
}
