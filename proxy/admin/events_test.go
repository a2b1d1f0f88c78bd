package admin

import (
	"bufio"
	"context"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"hubcap/proxy/admin/api"
)

// told returns the ids of events.
func told(all []event) (ids []int64) {
	for _, e := range all {
		ids = append(ids, e.id)
	}
	return ids
}

func TestMissedEvents(t *testing.T) {
	e := NewEvents(100)
	for i := range keptEvents + 5 {
		e.Publish([]string{"fill", "problem"}[i%2], i)
		e.progress("fill", i)
	}
	for _, tc := range []struct {
		q           api.EventsQuery
		n           int
		first, last int64
	}{
		{api.EventsQuery{LastEventID: 7}, keptEvents, 106, 1105}, // of an earlier run
		{api.EventsQuery{LastEventID: 1103}, 2, 1104, 1105},
		{api.EventsQuery{LastEventID: 1101, Kind: []string{"problem"}}, 2, 1102, 1104},
		{api.EventsQuery{LastEventID: 1105}, 0, 0, 0},
		{api.EventsQuery{}, 0, 0, 0},
	} {
		r, missed, ok := e.listen(&tc.q)
		if !ok || len(missed) != tc.n || tc.n > 0 && (missed[0].id != tc.first || missed[tc.n-1].id != tc.last) {
			t.Errorf("%+v: %v, %v", tc.q, ok, told(missed))
		}
		e.leave(r)
	}
}

// TestReaderThatDoesNotRead shows that nobody waits for it, that it is dropped,
// and that the others get everything.
func TestReaderThatDoesNotRead(t *testing.T) {
	e := NewEvents(0)
	idle, _, _ := e.listen(&api.EventsQuery{})
	deaf, _, _ := e.listen(&api.EventsQuery{Kind: []string{"problem"}})
	busy, _, _ := e.listen(&api.EventsQuery{})
	for i := range unread + 2 {
		e.Publish("fill", i)
		if one := <-busy.events; one.id != int64(i+1) {
			t.Fatalf("event %d is %v", i, one)
		}
	}
	n := 0
	for range idle.events { // it is closed
		n++
	}
	if n != unread || len(e.readers) != 2 {
		t.Errorf("%d events and then dropped, %d readers", n, len(e.readers))
	}
	e.leave(idle)
	e.leave(deaf)
	e.Close()
	if _, more := <-busy.events; more {
		t.Error("the reader goes on after the end")
	}
	e.leave(busy)
	e.Publish("fill", 0)
	if _, _, ok := e.listen(&api.EventsQuery{}); ok {
		t.Error("a reader is let in after the end")
	}
}

// TestStream reads the stream as a browser does: it connects, is cut off, comes
// back, and gets what it has missed.
func TestStream(t *testing.T) {
	e := NewEvents(0)
	_, h := build(Options{Box: &Box{Now: time.Now, Events: e}})
	s := httptest.NewServer(h)
	defer s.Close()
	defer e.Close()
	connect := func(lastID, query string) (lines func(n int) []string, leave func()) {
		ctx, cancel := context.WithCancel(t.Context())
		req, _ := http.NewRequestWithContext(ctx, "GET", s.URL+"/api/v1/events"+query, nil)
		if lastID != "" {
			req.Header.Set("Last-Event-ID", lastID)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil || resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/event-stream" {
			t.Fatal(resp, err)
		}
		r := bufio.NewScanner(resp.Body)
		return func(n int) (all []string) {
			for len(all) < n && r.Scan() {
				if text := r.Text(); text != "" && !strings.HasPrefix(text, ":") {
					all = append(all, text)
				}
			}
			return all
		}, func() { cancel(); resp.Body.Close() }
	}
	lines, leave := connect("", "")
	e.Publish("problem", api.ProblemEvent{State: "begun"})
	e.progress("fill", map[string]int{"have": 5})
	if got := lines(5); got[0] != "id: 1" || got[1] != "event: problem" || !strings.HasPrefix(got[2], `data: {"state":"begun"`) || got[3] != "event: fill" || got[4] != `data: {"have":5}` {
		t.Errorf("%q", got)
	}
	leave()
	e.Publish("fill", 2)
	e.Publish("upstream", 3)
	lines, leave = connect("1", "?kind=upstream,problem")
	if got := lines(3); !slices.Equal(got, []string{"id: 3", "event: upstream", "data: 3"}) {
		t.Errorf("%q", got)
	}
	leave()
	for _, query := range []string{"?kind=x", "?x=y"} {
		resp, err := http.Get(s.URL + "/api/v1/events" + query)
		if err != nil || resp.StatusCode != 422 {
			t.Errorf("%s: %v, %v", query, resp, err)
		}
		resp.Body.Close()
	}
}

// TestReadersAreBounded opens more streams than there may be.
func TestReadersAreBounded(t *testing.T) {
	e := NewEvents(0)
	_, h := build(Options{Box: &Box{Now: time.Now, Events: e}})
	for range maxReaders {
		e.listen(&api.EventsQuery{})
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/api/v1/events", nil))
	if w.Code != 503 || w.Header().Get("Content-Type") != "application/problem+json" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	w = httptest.NewRecorder()
	r := httptest.NewRequest("GET", "/api/v1/events", nil)
	r.Header.Set("Last-Event-ID", strconv.Itoa(1)+"x")
	if h.ServeHTTP(w, r); w.Code != 422 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}
