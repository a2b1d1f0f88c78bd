package access

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
)

// grantFor is how long a registry is believed that a token opens a
// repository: the life of a token at Docker Hub. What it has revoked since is
// served for so long at most.
const grantFor = 5 * time.Minute

// grantsKept bounds for how many pairs of token and repository that is
// remembered.
const grantsKept = 100_000

// Asker is a token in a repository, in a form that tells nothing of the token.
type Asker [sha256.Size]byte

// Grants remembers which repositories were opened to which tokens, and keeps
// no token.
type Grants struct {
	key   []byte // of this process
	known *lru.Cache[Asker, time.Time]
	now   func() time.Time
}

// NewGrants remembers nothing yet. now is the clock.
func NewGrants(now func() time.Time) *Grants {
	known, err := lru.New[Asker, time.Time](grantsKept)
	if err != nil {
		panic(err) // only a size below one is an error
	}
	key := make([]byte, sha256.Size)
	_, _ = rand.Read(key) // never fails
	return &Grants{key: key, known: known, now: now}
}

// Asker names a token in a repository; an empty token is a client without one.
func (g *Grants) Asker(token, repository string) (a Asker) {
	mac := hmac.New(sha256.New, g.key)
	mac.Write([]byte(token + "\n" + repository)) // neither holds a line's end
	mac.Sum(a[:0])
	return a
}

// Alive tells whether the asker was let in not long ago.
func (g *Grants) Alive(a Asker) bool {
	until, ok := g.known.Get(a)
	return ok && g.now().Before(until)
}

// Granted notes that the registry has just let the asker in.
func (g *Grants) Granted(a Asker) { g.known.Add(a, g.now().Add(grantFor)) }

// Refused notes that it did not.
func (g *Grants) Refused(a Asker) { g.known.Remove(a) }
