package fill

import (
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/opencontainers/go-digest"
)

// wrongFor is how long a digest is remembered after a download with wrong
// bytes: long enough for the client that got the beginning to try again.
const wrongFor = time.Minute

// recentlyWrong remembers the digests of which a wrong beginning was sent to
// clients lately. A client that continues such a blob with a Range request would
// join a right end to the wrong beginning.
type recentlyWrong struct {
	until *lru.Cache[digest.Digest, time.Time]
}

func newRecentlyWrong() recentlyWrong {
	until, err := lru.New[digest.Digest, time.Time](1024)
	if err != nil {
		panic(err) // only a size below one is an error
	}
	return recentlyWrong{until}
}

func (w recentlyWrong) add(d digest.Digest) { w.until.Add(d, time.Now().Add(wrongFor)) }

func (w recentlyWrong) has(d digest.Digest) bool {
	until, known := w.until.Peek(d)
	return known && time.Now().Before(until)
}
