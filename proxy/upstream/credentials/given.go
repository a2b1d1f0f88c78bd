package credentials

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"oras.land/oras-go/v2/registry/remote/auth"
)

// given is configured credentials.
type given struct{ Login }

// forever is the life of credentials that no file renews.
const forever = 100 * 365 * 24 * time.Hour

func (g given) get(context.Context) (auth.Credential, time.Time, error) {
	ends := time.Now().Add(forever)
	for _, one := range []struct {
		file string
		into *Secret
	}{{g.UsernameFile, &g.Username}, {g.PasswordFile, &g.Password}, {g.TokenFile, &g.Token}} {
		if one.file == "" {
			continue
		}
		content, err := os.ReadFile(one.file)
		if err != nil {
			return auth.EmptyCredential, time.Time{}, fmt.Errorf("its file cannot be read: %w", err)
		}
		*one.into, ends = Secret(Trim(string(content))), time.Time{}
	}
	return auth.Credential{Username: string(g.Username), Password: string(g.Password), RefreshToken: string(g.Token)}, ends, nil
}

// Trim returns the secret in a file's content: without trailing line ends.
func Trim(content string) string { return strings.TrimRight(content, "\r\n") }
