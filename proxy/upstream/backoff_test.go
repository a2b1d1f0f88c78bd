package upstream

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/e2e/fakehub"
)

// TestRetryAfterTimes covers times in a Retry-After, with a local clock that is
// wrong and with one that is right.
func TestRetryAfterTimes(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for name, at := range map[string]struct {
		date string    // of the answer
		real time.Time // at the registry
	}{
		"no Date":             {"", now},
		"a Date that is no":   {"yesterday", now},
		"the same time":       {now.Format(http.TimeFormat), now},
		"our clock is behind": {now.Add(24 * time.Hour).Format(http.TimeFormat), now.Add(24 * time.Hour)},
		"our clock is ahead":  {now.Add(-24 * time.Hour).Format(http.TimeFormat), now.Add(-24 * time.Hour)},
	} {
		until := at.real.Add(90 * time.Second)
		for form, value := range map[string]string{
			"date": until.Format(http.TimeFormat), "seconds since 1970": fmt.Sprint(until.Unix()),
			"milliseconds since 1970": fmt.Sprint(until.UnixMilli()), "seconds": "90",
		} {
			h := http.Header{"Retry-After": {value}}
			if at.date != "" {
				h.Set("Date", at.date)
			}
			if got := retryAfter(h, now); got != 90*time.Second {
				t.Errorf("%s, %s: %s", name, form, got)
			}
		}
	}
	for value, want := range map[string]time.Duration{
		"86400": maxRetryAfter, "1000000000": maxRetryAfter, "1000000001": 0, "1000000000001": 0, "9223372036854775807": maxRetryAfter,
	} {
		if got := retryAfter(http.Header{"Retry-After": {value}}, now); got != want {
			t.Errorf("%q: %s, want %s", value, got, want)
		}
	}
}

// TestLongBackoff: the Retry-After of a 429 that is not about a pull limit is
// bounded by minutes, and one request a minute finds out whether the host answers
// again.
func TestLongBackoff(t *testing.T) {
	t.Parallel()
	for name, value := range map[string]func(now time.Time) string{
		"a day":                   func(time.Time) string { return "86400" },
		"seconds since 1970":      func(now time.Time) string { return fmt.Sprint(now.Add(24 * time.Hour).Unix()) },
		"milliseconds since 1970": func(now time.Time) string { return fmt.Sprint(now.Add(24 * time.Hour).UnixMilli()) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			clock := newClock()
			hub, client := newHub(t, fakehub.Options{Anonymous: true}, goesBy(clock))
			hub.Image(repo, "latest", fakehub.RandomBlob(1, 10))
			hub.Script(func(*fakehub.Request) *fakehub.Fault {
				header := http.Header{"Retry-After": {value(clock.Now())}, "Date": {clock.Now().Format(http.TimeFormat)}}
				return &fakehub.Fault{Status: 429, Header: header}
			})
			limited := func(left time.Duration) {
				t.Helper()
				if e := wantKind(t, client.head(within(t)), RateLimited); e.RetryAfter != left {
					t.Errorf("asks for %s, want %s", e.RetryAfter, left)
				}
			}
			limited(maxBackoff)
			limited(maxBackoff)
			if got := client.Trouble(10 * time.Second); got != (Trouble{Registry: true}) {
				t.Errorf("got %+v", got)
			}
			clock.Advance(backoffProbe)
			limited(maxBackoff) // the probe
			limited(maxBackoff)
			if n := hub.Count(); n != 2 {
				t.Errorf("%d requests, want the first and a probe", n)
			}
			hub.Script(nil)
			limited(maxBackoff)
			clock.Advance(backoffProbe)
			if err := client.head(within(t)); err != nil {
				t.Errorf("the host answers again: %v", err)
			}
			if err := client.head(within(t)); err != nil || client.Failing(0) {
				t.Errorf("the backoff is over: %v", err)
			}
		})
	}
}

// TestLongBackoffOfTheCDN: manifests are still requested, and Trouble names blobs alone.
func TestLongBackoffOfTheCDN(t *testing.T) {
	t.Parallel()
	clock := newClock()
	hub, client := newHub(t, fakehub.Options{Anonymous: true, Clock: clock.Now}, goesBy(clock))
	layer := fakehub.RandomBlob(1, 10)
	hub.Image(repo, "latest", layer)
	hub.Script(fakehub.Once(&fakehub.Fault{Status: 429, Header: http.Header{"Retry-After": {"86400"}}}, fakehub.OfRole(fakehub.RoleCDN)))
	for range 3 {
		_, err := client.OpenBlob(within(t), repo, digest.FromBytes(layer), 0, -1)
		wantKind(t, err, RateLimited)
	}
	if err := client.head(within(t)); err != nil || client.Trouble(0) != (Trouble{Blobs: true}) {
		t.Errorf("%v, %+v", err, client.Trouble(0))
	}
	clock.Advance(backoffProbe)
	b, err := client.OpenBlob(within(t), repo, digest.FromBytes(layer), 0, -1)
	if got := readBlob(t, b, err); len(got) != 10 || client.Trouble(0) != (Trouble{}) {
		t.Errorf("%d bytes, %+v", len(got), client.Trouble(0))
	}
}
