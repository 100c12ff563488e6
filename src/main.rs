fn main() -> std::process::ExitCode {
    kvmd::main()
}
