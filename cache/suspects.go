package cache

import (
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/opencontainers/go-digest"
)

// suspectFor is how long a digest stays suspect after a fill whose bytes were
// wrong: long enough for the client that got its beginning to come again.
const suspectFor = time.Minute

// suspects are the digests whose beginning was handed out lately and proved
// wrong. A client that resumes such a blob by Range would put a right end to
// a wrong beginning.
type suspects struct {
	until *lru.Cache[digest.Digest, time.Time]
}

func newSuspects() suspects {
	until, err := lru.New[digest.Digest, time.Time](1024)
	if err != nil {
		panic(err) // only a size below one is an error
	}
	return suspects{until}
}

func (s suspects) add(d digest.Digest) { s.until.Add(d, time.Now().Add(suspectFor)) }

func (s suspects) has(d digest.Digest) bool {
	until, known := s.until.Peek(d)
	return known && time.Now().Before(until)
}
