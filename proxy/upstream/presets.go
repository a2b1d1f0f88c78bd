package upstream

// Preset is a public registry that needs no configuration.
type Preset struct {
	Host       string
	URL        string   // empty for https://Host
	TokenHosts []string // besides the registry's own host
}

// Presets are the well-known public registries, each with the token hosts
// that its challenges name.
//
// lscr.io redirects to ghcr.io, which wants tokens of its own; a redirect to
// another host is followed without a token, so ghcr.io is asked itself. nvcr.io
// names authn.nvidia.com where a token has expired, whose anonymous tokens do not
// work; so only its own host is listed, and expired tokens are replaced there.
func Presets() []Preset {
	return []Preset{
		{Host: DockerHub, URL: "https://registry-1.docker.io", TokenHosts: []string{"auth.docker.io"}},
		{Host: "ghcr.io"},
		{Host: "lscr.io", URL: "https://ghcr.io"},
		{Host: "quay.io"},
		{Host: "registry.k8s.io"},
		{Host: "mcr.microsoft.com"},
		{Host: "gcr.io"},
		{Host: "*.gcr.io"},
		{Host: "*.pkg.dev"},
		{Host: "public.ecr.aws"},
		{Host: "registry.gitlab.com", TokenHosts: []string{"gitlab.com"}},
		{Host: "docker.elastic.co", TokenHosts: []string{"docker-auth.elastic.co"}},
		{Host: "nvcr.io"},
	}
}
