package upstream

import (
	"net/url"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
)

// locationFor is how long the address that a registry has redirected to is
// used again. Registries sign theirs for ten minutes and more; one that has
// expired earlier is refused, and the registry asked anew.
const locationFor = time.Minute

// locationsKept bounds how many are remembered for each upstream and
// identity.
const locationsKept = 1024

// locations are the addresses of blobs' bytes, by repository and digest.
type locations struct {
	known *lru.Cache[string, location]
	now   func() time.Time
}

type location struct {
	at    *url.URL
	until time.Time
}

func newLocations(now func() time.Time) *locations {
	known, err := lru.New[string, location](locationsKept)
	if err != nil {
		panic(err) // only a size below one is an error
	}
	return &locations{known: known, now: now}
}

func (l *locations) get(key string) (*url.URL, bool) {
	one, ok := l.known.Get(key)
	return one.at, ok && l.now().Before(one.until)
}

func (l *locations) put(key string, at *url.URL) {
	l.known.Add(key, location{at, l.now().Add(locationFor)})
}

func (l *locations) forget(key string) { l.known.Remove(key) }
