package access

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"time"

	"hubcap/proxy/memory"
)

// grantFor is how long a registry's grant to a token is believed: the life of a
// token at Docker Hub. Access that it has revoked ends after so much at most.
const grantFor = 5 * time.Minute

// grantsKept bounds how many pairs of token and repository are remembered.
const grantsKept = 100_000

// TokenHash stands for a client's token in a repository. It does not reveal the
// token.
type TokenHash [sha256.Size]byte

// Grants remembers which tokens may pull from which repositories, and keeps no
// token. Its methods are safe for concurrent use.
type Grants struct {
	key   []byte // of this process
	known *memory.Memory[TokenHash, struct{}]
}

// NewGrants returns empty Grants. now is the clock.
func NewGrants(now func() time.Time) *Grants {
	key := make([]byte, sha256.Size)
	_, _ = rand.Read(key) // never fails
	return &Grants{key: key, known: memory.New[TokenHash, struct{}](grantsKept, now)}
}

// Hash returns the TokenHash of a token in a repository; an empty token stands
// for a client without one.
func (g *Grants) Hash(token, repository string) (h TokenHash) {
	mac := hmac.New(sha256.New, g.key)
	mac.Write([]byte(token + "\n" + repository)) // neither contains a line break
	mac.Sum(h[:0])
	return h
}

// Alive reports whether the registry has granted access within grantFor.
func (g *Grants) Alive(h TokenHash) bool {
	_, ok := g.known.Get(h)
	return ok
}

// Granted records that the registry has granted access now.
func (g *Grants) Granted(h TokenHash) { g.known.Put(h, struct{}{}, grantFor) }

// Refused records that the registry has refused access.
func (g *Grants) Refused(h TokenHash) { g.known.Remove(h) }

// Len returns how many grants are alive.
func (g *Grants) Len() (n int) {
	for range g.known.All() {
		n++
	}
	return n
}
